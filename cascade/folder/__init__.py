"""A folder of one's own pictures to a cascade: what is in it, what follows from that, the YAML with its reasons, the trainings."""

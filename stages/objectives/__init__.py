"""What training minimises: one file for each objective."""

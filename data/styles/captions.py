"""Several captions of one picture, each a row of its own that trains the same picture.

The name counts twice, as it is what users write; keywords and a keyword with its subgroup teach words that no name has. Signs are
flat shapes that a network draws early and that are many: they get half as many rows.
"""

from random import Random

from data.styles.hidden import SEEN

SIGNS = "Symbols"  # a group
NUMS = (1, 2, 2, 3)  # keywords in a caption, equally likely
MANY = 3  # keywords from which one may stand for the name


def captions(row: dict) -> list[str]:
    """The captions of a row of metadata; for what is hidden the name alone. The same for all styles of a thing."""
    name = row["name"]
    if row["part"] != SEEN:
        return [name]
    words = [word for word in row["keywords"] if word.lower() != name.lower()] or [name]
    draws = Random(row["thing"])
    num = min(len(words), draws.choice(NUMS))
    some = ", ".join(draws.sample(words, num))
    if row["group"] == SIGNS:
        return [name, some]
    loose = name
    if len(words) >= MANY and draws.random() < 0.5:
        loose = f"{draws.choice(words)} ({row['subgroup'].replace('-', ' ')})"
    return [name, name, some, loose]

"""The kinds of stage: what each is given and where its sampling starts."""

"""The model card of a cascade, its README.md: what its files know, in the form that Hugging Face's specification asks for
(github.com/huggingface/hub-docs, modelcard.md), and what people wrote beside them by hand.

Known are the manifest and the bundles; `card.json` keeps what was gathered from shards, logs and reports, which do not travel with
the weights; `card.md` and `LICENSE.md` are written by hand. The same files give the same bytes.
"""

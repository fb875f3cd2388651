"""The product: bundles in; pictures, events and scores out."""

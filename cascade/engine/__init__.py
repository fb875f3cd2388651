"""Network calls for many requests at once: what is asked next, on which host, in calls of which size."""

"""The supervisor: worker processes, who runs when, and how they are told."""

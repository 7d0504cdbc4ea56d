"""What a request costs, in counts that a busy machine cannot change."""

"""What watches a training from inside."""

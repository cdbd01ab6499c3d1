"""Parts of the fast path: the same losses in less time and memory."""

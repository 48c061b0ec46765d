"""What a run shows and leaves behind: progress, rows, TensorBoard events, summary and receipt."""

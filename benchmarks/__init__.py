"""Side-by-side measurements against peers, and the quality that the experiments reach."""

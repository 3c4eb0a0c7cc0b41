"""What is going on in a deployment, as values: `Look` reads a run folder and the router's figures, `snapshot` makes one value of them."""

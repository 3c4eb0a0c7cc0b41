"""Rules about a topology and its plan: what is wrong before anything is submitted."""

"""Files of other tools as topology files."""

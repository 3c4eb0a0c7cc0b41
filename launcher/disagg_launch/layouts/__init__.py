"""The forms of a plan: hostfile, rankfile, picture and the others, each a pure function, each with an independent reader."""

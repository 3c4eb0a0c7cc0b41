# Makes this folder a package of data files.

"""`download`: a model of the hub brought into a folder, whole and verified."""

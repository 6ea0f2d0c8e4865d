"""Progress on stderr: bars of jobs over parameters, of downloads, of models in a folder."""

"""The backend in torch, for CUDA and whatever else torch drives; needs `pip install 'netweight[torch]'`."""

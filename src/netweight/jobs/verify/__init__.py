"""`verify`: a merged model computed again, and compared with its files."""

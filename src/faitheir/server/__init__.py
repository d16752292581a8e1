"""`faitheir serve`: a web page and a REST interface over one pipeline per model. Nothing that is sent is kept."""

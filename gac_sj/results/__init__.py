"""The rows that runs leave: their schema, their files, and what is made of them."""

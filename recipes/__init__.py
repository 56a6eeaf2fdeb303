"""How the built-in images and models were made, one command each."""

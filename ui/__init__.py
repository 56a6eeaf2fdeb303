"""The web application: a view of the data folder that computes nothing itself."""

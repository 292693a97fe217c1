"""Reference pages of the documentation, written from the schema and the parsers while the pages are built."""

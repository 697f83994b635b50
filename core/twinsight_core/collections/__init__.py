"""Collections: vectors by id, written, read and searched; and all of them in a data folder."""

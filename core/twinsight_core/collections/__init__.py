"""Collections of vectors by id: writing, reading and searching them, and all collections of a data folder."""

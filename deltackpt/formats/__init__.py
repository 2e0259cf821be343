"""Values and files around the store: typed trees for byte objects, nested states, and torch files."""

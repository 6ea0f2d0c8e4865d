"""`report`: one page of results that other jobs have written."""

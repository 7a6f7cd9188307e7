"""What report.py is made of: tables from rows, the page, the blocks of the READMEs."""

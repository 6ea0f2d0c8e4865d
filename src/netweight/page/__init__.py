"""The page that a report is: tables in one HTML file, with all that draws them."""

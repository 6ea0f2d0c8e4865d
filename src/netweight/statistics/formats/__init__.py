"""What formats that models are shipped in would lose of a matrix: encoders, and the errors of rows."""

"""What a terminal shows of a job's plan and result: tables, lists and notes for people."""

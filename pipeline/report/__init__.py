"""What a person reads of runs: tables, sentences, Markdown for MLflow, and one HTML page."""

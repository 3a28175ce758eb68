"""What ``report.html`` says of a study: sentences from its summary, answers from its cells."""

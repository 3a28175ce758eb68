"""What a diagnosis measures, a module a question; ``tables`` runs them all and keeps what was done."""

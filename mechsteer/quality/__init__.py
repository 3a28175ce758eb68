"""Is an answer still an answer? Measures of texts, their surprise to the unsteered model, and collapse."""

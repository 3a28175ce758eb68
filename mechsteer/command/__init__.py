"""The commands that are more than one call of a public function, a module each."""

"""Where step infer is computed: here, or handed over to another machine."""

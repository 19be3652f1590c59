"""Jobs: what a config asks for, resolved once and then passed on."""

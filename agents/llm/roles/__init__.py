"""The roles that the LLM plays, a module each: its answer, the call that asks for it, and what comes of it."""

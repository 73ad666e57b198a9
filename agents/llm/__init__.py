"""The LLM: its server, how it is asked, and the record of all that was said."""

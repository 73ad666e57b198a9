"""Who proposes candidates, and how they are told apart."""

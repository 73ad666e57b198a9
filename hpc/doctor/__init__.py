"""What would fail in a campaign, found before it costs a GPU-hour: a module for each part of the world it rests on."""

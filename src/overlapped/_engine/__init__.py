"""The parts that move: feeds, crews and the shapes of lanes. Private; nothing here knows what a stage is."""

"""Where a call runs; one file a lane, file name = lane name."""

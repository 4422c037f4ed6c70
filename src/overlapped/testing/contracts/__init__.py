"""What every stage, lane, sink and controller must do, as checks that anyone's own can be put through."""

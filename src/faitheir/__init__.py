"""FaithEIR."""

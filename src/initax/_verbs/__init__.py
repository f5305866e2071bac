"""Functions that users call beside `plan`: re-initialize, calibrate, measure, reset."""

"""The Alpaca twin: a small exchange that replays real bars behind Alpaca's own REST and websocket protocols."""

"""The queue: a feeder turns due rows into tickets, workers do them, a sweeper puts right what crashed."""

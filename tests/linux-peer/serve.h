// The services that the Linux guest offers for comparison; serve.c has them.

// Serves until something fails; errno then says what.
void serve(void);

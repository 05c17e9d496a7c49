#include <stdio.h>
#include <stdlib.h>
#include "add.h"
int main(int n, char **v) { (void)n; printf("%d\n", add(atoi(v[1]), atoi(v[2]))); return 0; }

#!/usr/bin/perl
print "hello from a $ARGV[0]\n";
